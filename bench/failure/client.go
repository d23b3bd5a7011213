//go:build linux

package failure

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// idHeader carries a request's id to the endpoints' logs.
const idHeader = "X-Request-Id"

const postBody = "4711 is ordered once"

// client sends requests on connections that it keeps, as many as are needed.
type client struct {
	addr     string
	host     string
	method   string
	patience time.Duration

	mu   sync.Mutex
	idle []*conn
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

// load sends requests at their times and waits for all of them. It calls fault once, after that time.
func (c *client) load(cfg Config, fault func()) []outcome {
	out := make([]outcome, cfg.Requests)
	var wg sync.WaitGroup
	start := time.Now()
	timer := time.AfterFunc(cfg.After, fault)
	defer timer.Stop()
	for i := range out {
		due := time.Duration(float64(i) * 1e9 / cfg.Rate)
		time.Sleep(time.Until(start.Add(due)))
		wg.Go(func() { out[i] = c.do(strconv.Itoa(i), start, due) })
	}
	wg.Wait()
	c.close()
	return out
}

func (c *client) do(id string, start time.Time, due time.Duration) outcome {
	o := outcome{id: id, due: due, late: time.Since(start) - due}
	o.status, _, o.err = c.exchange(id, start.Add(due+c.patience))
	o.took = time.Since(start) - due
	return o
}

// exchange sends one request and reads its answer, and tells which endpoint gave it.
func (c *client) exchange(id string, deadline time.Time) (status int, endpoint string, err error) {
	k, err := c.take(deadline)
	if err != nil {
		return 0, "", err
	}
	keep := false
	defer func() {
		if keep {
			c.give(k)
		} else {
			k.Close()
		}
	}()
	_ = k.SetDeadline(deadline)
	if _, err := io.WriteString(k, c.request(id)); err != nil {
		return 0, "", err
	}
	res, err := http.ReadResponse(k.r, &http.Request{Method: c.method})
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, "", err
	}
	if res.StatusCode == http.StatusOK && string(body) != answer {
		return 0, "", fmt.Errorf("wrong answer %.80q", body)
	}
	keep = !res.Close
	return res.StatusCode, res.Header.Get(endpointHeader), nil
}

func (c *client) request(id string) string {
	head := c.method + " /orders HTTP/1.1\r\nHost: " + c.host + "\r\n" + idHeader + ": " + id + "\r\n"
	if c.method == http.MethodGet {
		return head + "\r\n"
	}
	return head + "Content-Length: " + strconv.Itoa(len(postBody)) + "\r\n\r\n" + postBody
}

// take gives the connection that was used last, or a new one.
func (c *client) take(deadline time.Time) (*conn, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		k := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return k, nil
	}
	c.mu.Unlock()
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	var d net.Dialer
	n, err := d.DialContext(ctx, "tcp4", c.addr)
	if err != nil {
		return nil, err
	}
	return &conn{n, bufio.NewReader(n)}, nil
}

func (c *client) give(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, k)
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.idle {
		k.Close()
	}
	c.idle = nil
}
