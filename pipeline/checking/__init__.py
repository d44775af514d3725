"""What may be wrong with the data, or with a teacher that says nothing of it, before anything is trained."""
