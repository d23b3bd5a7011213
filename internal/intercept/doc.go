// Package intercept owns how a program's connections come to detour without its knowing: where a redirected connection
// was meant to go, what loopback means for a program in a network namespace of its own, the ports of it that the host
// may enter, and the environment variables that stand in where there is no namespace.
//
// The namespace itself, the process in it and its signals are netns's; the packet rules are nft's.
package intercept
