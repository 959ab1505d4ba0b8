"""From near pairs to decisions: candidates, rules, order, decisions, and the recall of the pairs."""
