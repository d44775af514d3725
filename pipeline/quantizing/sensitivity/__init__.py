"""What each layer costs in INT8, and which layers stay in float so that a budget holds."""
