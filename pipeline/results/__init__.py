"""What the stages left, as the results that a report shows: findings, gates, how the student was taught."""
