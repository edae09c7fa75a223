"""What a reward is for: a policy's answers, chosen by it or revised by its critiques."""
