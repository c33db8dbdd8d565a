/** Lets so many tasks run at once; the others wait in order. Their number is bounded by who asks: one pod asks a few times. */
export class Limiter {
  private running = 0
  private readonly waiting: (() => void)[] = []

  constructor(private readonly atOnceMax: number) {}

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.running >= this.atOnceMax) await new Promise<void>((resolve) => this.waiting.push(resolve))
    else this.running++
    try {
      return await task()
    } finally {
      // The place passes to the next one without becoming free in between.
      const next = this.waiting.shift()
      if (next) next()
      else this.running--
    }
  }
}
