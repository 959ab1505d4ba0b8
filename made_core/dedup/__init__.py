"""From near pairs to decisions: candidates, rules, order, filters, and the measured recall."""
