"""The commands, a file each: parse, call the library, print."""
