"""The options of commands: their parser, recipes, and the settings of training and of tasks."""
