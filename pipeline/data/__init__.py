"""From a recipe's source to batches: samples, what each is used for, and ONE preprocessing function."""
