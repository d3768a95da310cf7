//! Kubernetes objects in, `model` out. (The first version of the views and of `parse` is being written right now,
//! beside the controller's core; extend it here rather than starting anew.)
