package translate

// Compiled counts the units that were compiled so far.
func (m *Compiler) Compiled() int { return m.compiled }
