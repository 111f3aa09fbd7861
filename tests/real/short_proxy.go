// SPDX-License-Identifier: Apache-2.0

// A TCP proxy as Go programs write it: io.Copy between two connections, which splices.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func forward(to, from *net.TCPConn, done chan<- struct{}) {
	io.Copy(to, from)
	to.CloseWrite()
	done <- struct{}{}
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Println("listening on", os.Args[1])
	for {
		client, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			server, err := net.Dial("tcp", os.Args[2])
			if err != nil {
				client.Close()
				return
			}
			done := make(chan struct{})
			go forward(server.(*net.TCPConn), client.(*net.TCPConn), done)
			go forward(client.(*net.TCPConn), server.(*net.TCPConn), done)
			<-done
			<-done
			client.Close()
			server.Close()
		}()
	}
}
