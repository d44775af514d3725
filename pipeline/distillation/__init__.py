"""How a student learns from a teacher: losses, augmentation, the training loop."""
