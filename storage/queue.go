package storage

import "sync"

// queue holds what waits for the one goroutine that writes a file. The semaphore
// of its owner bounds it.
type queue[T any] struct {
	mu     sync.Mutex
	wake   sync.Cond // L is &mu
	list   []T
	closed bool
}

func (q *queue[T]) init() { q.wake.L = &q.mu }

// push reports false when the queue takes no more.
func (q *queue[T]) push(x T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.list = append(q.list, x)
	q.wake.Signal()
	return true
}

func (q *queue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Broadcast()
}

// take waits and returns what is written together, or nil when the queue is
// closed and empty. group says how many of a list that is, 1 or more.
func (q *queue[T]) take(group func([]T) int) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 {
		if q.closed {
			return nil
		}
		q.wake.Wait()
	}
	n := group(q.list)
	out := q.list[:n:n]
	if q.list = q.list[n:]; len(q.list) == 0 {
		q.list = nil
	}
	return out
}
