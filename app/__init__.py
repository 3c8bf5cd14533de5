"""The control plane: jobs, the store, the API. It never imports torch, an environment, or anything from workers/."""
