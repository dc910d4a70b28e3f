import type { RowLog } from './row-log.ts'

/** The rows of the lists, kept up to date while somebody watches. */
export interface Live {
  readonly log: RowLog
  /** Another one each time the root starts: numbers of an earlier one mean nothing. */
  readonly epoch: string
  /** As many watch as may. */
  readonly isFull: boolean
  /** Resolves when all rows are there; they are kept up to date until what it returns is called. */
  enter(): Promise<() => void>
  /** Each time something has changed, until that is disposed of. */
  onChanged(act: () => void): Disposable
}
