"""The robot PC's part of RoboAlign: the node graph, its pure cores and its hardware drivers."""
