"""What fits a device and how long it takes, told without loading torch or a model."""
