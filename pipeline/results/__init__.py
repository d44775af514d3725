"""What the stages left, as the results that a report shows: chain, engines, findings, gates, the teaching."""
