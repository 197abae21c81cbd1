"""What synthetic venues are made of: each file some parts (`simulator.contract.Part`), pure and seeded."""
