"""Few-step sampling with TwinFlow models; needs torch and diffusers."""
