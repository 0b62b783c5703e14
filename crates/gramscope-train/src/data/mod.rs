//! Data sets: built in, CIFAR, image folders.
