"""How near samples are to data, in a model's own latents: no network is downloaded, nothing is decoded."""
