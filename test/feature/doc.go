// Package feature holds the feature tests: one file for each thing a user sees. Each gives YAML to the real binary and
// sends real traffic through it, in network namespaces of its own; nothing of the machine is touched and no root is
// needed.
//
// A world (world_test.go) is an application's host with a link to each region. Regional servers (server_test.go) log
// what reaches them; at the end of every test the logs are searched for a request that was delivered twice and must not
// have been.
package feature
