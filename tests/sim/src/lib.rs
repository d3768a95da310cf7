//! A seeded world around the controller.
