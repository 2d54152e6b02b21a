"""From checkpoint tensors to llm.mnn.weight: reading by row blocks, quantisers, packing and the writer."""
