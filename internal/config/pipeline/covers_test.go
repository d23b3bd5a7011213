package pipeline

import (
	"testing"

	"detour.dev/detour/internal/config/decode"
)

func TestCovers(t *testing.T) {
	const se = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, labels: {a: b}}\nspec: "
	for _, tt := range []struct {
		old, new string
		want     bool
	}{
		{"{hosts: [a]}", "{hosts: [a]}", true},
		{"{hosts: [a]}", "{hosts: [b, a]}", true},
		{"{hosts: [a, b]}", "{hosts: [a]}", false},
		{"{hosts: [a]}", "{hosts: [b]}", false},
		{"{hosts: [a, a]}", "{hosts: [a, b]}", false},
		{"{hosts: [a]}", "{hosts: [a], resolution: DNS}", true},
		{"{hosts: [a], resolution: DNS}", "{hosts: [a], resolution: STATIC}", true},
		{"{hosts: [a], resolution: DNS}", "{hosts: [a]}", false},
		{"{endpoints: [{address: p, ports: {h: 80}}]}", "{endpoints: [{address: p, ports: {h: 81}}]}", true},
		{"{endpoints: [{address: p, ports: {h: 80}}]}", "{endpoints: [{address: p, ports: {g: 80}}]}", false},
		{"{endpoints: [{address: p}, {address: q}]}", "{endpoints: [{address: q}, {address: r}, {address: p, weight: 3}]}", true},
		{"{endpoints: [{address: p}, {address: q}]}", "{endpoints: [{address: p}, {address: r}]}", false},
		{"{endpoints: [{address: p}, {address: p}]}", "{endpoints: [{address: p}]}", false},
		{"{ports: [{name: h, number: 80}]}", "{ports: [{name: h, number: 81}]}", true},
	} {
		a, _ := decode.File("old", []byte(se+tt.old))
		b, _ := decode.File("new", []byte(se+tt.new))
		if got := covers(b[0], a[0]); got != tt.want {
			t.Errorf("%s after %s: %t", tt.new, tt.old, got)
		}
	}
	a, _ := decode.File("old", []byte(se+"{}"))
	b, _ := decode.File("new", []byte("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\nspec: {}"))
	if covers(b[0], a[0]) || !covers(a[0], b[0]) {
		t.Error("a label was taken away unseen")
	}
}
