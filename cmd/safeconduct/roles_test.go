package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/runtime"
)

const writers = 4

// asAgent runs fn with a client of memory under the grant in the first argument.
func asAgent(fn func(context.Context, rpcv1.MemoryServiceClient) error) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	grant, err := readGrant(os.Args[1])
	if err != nil {
		return err
	}
	agent, err := runtime.New(ctx, runtime.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	if ctx, err = agent.Act(ctx, grant.statement, "report"); err != nil {
		return err
	}
	conn, err := agent.Dial(memoryID)
	if err != nil {
		return err
	}
	return fn(ctx, rpcv1.NewMemoryServiceClient(conn))
}

// writerRole writes keys to notes until memory is gone, and prints each key once it is acknowledged.
func writerRole() int {
	err := asAgent(func(ctx context.Context, c rpcv1.MemoryServiceClient) error {
		var wg sync.WaitGroup
		for g := range writers {
			wg.Go(func() {
				for i := 0; ; i++ {
					key := fmt.Sprintf("%d-%d", g, i)
					put := &rpcv1.Put{Ref: ref(key), Value: []byte("value of " + key)}
					call, cancel := context.WithTimeout(ctx, 2*time.Second)
					_, err := c.Write(call, &rpcv1.WriteRequest{Ns: ref(key).GetNs(), Ops: []*rpcv1.Op{{Kind: &rpcv1.Op_Put{Put: put}}}})
					cancel()
					if err != nil {
						return
					}
					fmt.Println(key)
				}
			})
		}
		wg.Wait()
		return nil
	})
	if err != nil {
		return fail(err)
	}
	return 0
}

// readerRole reads keys from standard input and prints those whose value is not what writerRole wrote.
func readerRole() int {
	err := asAgent(func(ctx context.Context, c rpcv1.MemoryServiceClient) error {
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			key := s.Text()
			r, err := c.Get(ctx, &rpcv1.GetRequest{Ns: ref(key).GetNs(), Refs: []*v1.KeyRef{ref(key)}})
			if err != nil || len(r.GetEntries()) != 1 || string(r.GetEntries()[0].GetValue()) != "value of "+key {
				fmt.Println(key, err)
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	return 0
}

func ref(key string) *v1.KeyRef {
	return &v1.KeyRef{Ns: &v1.Path{Labels: []string{"notes"}}, Key: []byte(key)}
}

// spinnerRole makes the file in its argument and ends with 42 at SIGINT.
func spinnerRole() int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	if err := os.WriteFile(os.Args[1], nil, 0o600); err != nil {
		return fail(err)
	}
	<-c
	return 42
}
