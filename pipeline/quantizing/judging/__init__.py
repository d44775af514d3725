"""What a quantized graph's answers are worth beside the float graph's, by which metric and on which samples."""
