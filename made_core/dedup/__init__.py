"""From cluster rows to near pairs and decisions: candidates, order, rules, and the recall of the pairs."""
