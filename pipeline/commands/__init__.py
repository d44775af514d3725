"""What each command does, one file a command. `pipeline.cli` parses for them and prints what they return."""
