"""Pictures in prompts: found, opened, resized as the model's own processor does, and handed to the engine as pixels."""
