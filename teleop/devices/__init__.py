"""What an arm is driven with: each device turns what a hand does into wanted poses."""
