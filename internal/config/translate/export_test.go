package translate

// Compiled counts the units that were compiled so far.
func (m *Compiler) Compiled() int { return m.compiled }

// Front is the front that the last translation was made from, for telling it from others.
func (m *Compiler) Front() any { return m.last }
