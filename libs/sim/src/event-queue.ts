export interface SimEvent {
  atMs: number
  sequence: number
  run(): void
  cancelled: boolean
}

/** The earliest first; among equals the one that was put in first. A binary heap. */
export class EventQueue {
  private readonly heap: SimEvent[] = []
  private sequence = 0

  get size(): number {
    return this.heap.length
  }

  push(atMs: number, run: () => void): SimEvent {
    const event: SimEvent = { atMs, sequence: this.sequence++, run, cancelled: false }
    this.heap.push(event)
    this.up(this.heap.length - 1)
    return event
  }

  peek(): SimEvent | undefined {
    while (this.heap[0]?.cancelled) this.pop()
    return this.heap[0]
  }

  pop(): SimEvent | undefined {
    const first = this.heap[0]
    const last = this.heap.pop()
    if (first !== undefined && last !== undefined && first !== last) {
      this.heap[0] = last
      this.down(0)
    }
    return first
  }

  private before(a: SimEvent, b: SimEvent): boolean {
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence)
  }

  private up(start: number): void {
    let at = start
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!this.before(this.heap[at] as SimEvent, this.heap[parent] as SimEvent)) return
      this.swap(at, parent)
      at = parent
    }
  }

  private down(start: number): void {
    let at = start
    for (;;) {
      const left = 2 * at + 1
      const right = left + 1
      let least = at
      if (left < this.heap.length && this.before(this.heap[left] as SimEvent, this.heap[least] as SimEvent))
        least = left
      if (right < this.heap.length && this.before(this.heap[right] as SimEvent, this.heap[least] as SimEvent))
        least = right
      if (least === at) return
      this.swap(at, least)
      at = least
    }
  }

  private swap(a: number, b: number): void {
    const held = this.heap[a] as SimEvent
    this.heap[a] = this.heap[b] as SimEvent
    this.heap[b] = held
  }
}
