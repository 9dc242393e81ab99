"""Writes the tensors that the reader of torch.save files is tested with. Run in this folder with torch installed."""
import torch

values = torch.tensor([[0.0, 1.5, -2.25], [3e-7, 65504.0, -0.0]])
torch.save(values, "f32.pt")
torch.save(values.half(), "f16.pt")
torch.save(values.bfloat16(), "bf16.pt")
torch.save(values.T, "transposed.pt")
torch.save([values], "list.pt")
torch.save(values.int(), "int.pt")
torch.save(torch.zeros(300, 1000).bfloat16()[:2, :3].contiguous(), "sliced.pt")
