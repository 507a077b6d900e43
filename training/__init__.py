"""Alignment training: SFT, GRPO, the action head, export to a policy bundle."""
