"""What a run found, as one result model, and that model as HTML, Markdown, JSON and terminal output."""
