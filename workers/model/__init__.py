"""What engine and trainer both need to know of a Qwen3-VL folder: loading, inputs, positions, the vision tower, adapters."""
