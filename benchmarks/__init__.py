"""Numbers for people, side by side with what they would use instead. Imported by nothing but its own."""
