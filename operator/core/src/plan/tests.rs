mod claims;
mod goldens;
mod returns;
mod steady;
mod world;
