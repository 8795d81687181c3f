"""The recipes that ship with the package, read as data: one YAML file each."""
