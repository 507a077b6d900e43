"""Other people's demonstrations as episodes of ours, for pretraining."""
