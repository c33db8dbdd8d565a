import type { ListInput, ListOutput, SetInput, SetOutput } from '../../checkers/collection-models.js'
import type { ToldWrite } from '../../checkers/durability.js'
import type { LeaseRecord } from '../../checkers/leases.js'
import type { Operation } from '../../checkers/linearizability.js'
import type { Holding } from '../../checkers/locks.js'
import type { RegisterInput, RegisterOutput } from '../../checkers/register-model.js'
import type { PlacedOperation } from '../../checkers/revision-order.js'
import type { WatchStream } from '../../checkers/watch-guarantees.js'

/** All that the clients of one run were told, for the checkers. */
export class Records {
  readonly placed: PlacedOperation[] = []
  readonly writes: ToldWrite[] = []
  readonly registers = new Map<string, Operation<RegisterInput, RegisterOutput>[]>()
  readonly list: Operation<ListInput, ListOutput>[] = []
  readonly set: Operation<SetInput, SetOutput>[] = []
  readonly holdings: Holding[] = []
  readonly leases: LeaseRecord[] = []
  readonly streams: WatchStream[] = []
  /** The highest revision that anybody was told. */
  revision = 1
  /** The highest that somebody asked to compact at. */
  compacted = 0
  /** Answers that contradict themselves. */
  readonly absurd: string[] = []
  operations = 0
  unknown = 0

  saw(revision: number): void {
    this.revision = Math.max(this.revision, revision)
  }
}

/** One operation of an object's history: open until `done`; dropped if it did not happen or told nothing. */
export class OpenOperation<I, O> {
  private readonly operation: Operation<I, O>

  constructor(
    private readonly history: Operation<I, O>[],
    private readonly nowMs: () => number,
    client: string,
    input: I,
  ) {
    this.operation = { client, input, invokedMs: nowMs() }
    history.push(this.operation)
  }

  done(output: O): void {
    Object.assign(this.operation, { output, returnedMs: this.nowMs() })
  }

  drop(): void {
    this.history.splice(this.history.indexOf(this.operation), 1)
  }
}
