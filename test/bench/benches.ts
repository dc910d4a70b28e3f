import { Bench, type BenchOptions } from './bench.ts'
import { Testbed } from './testbed.ts'
import type { Variant } from './variants.ts'

export interface Opened extends AsyncDisposable {
  readonly bench: Bench
  /** Why it is loopback only. */
  readonly why: string | undefined
}

/** The first variant's bench, which knows those of the others; each has a testbed, and with it peers and agents, of its own. */
export async function openBenches(
  [ours, ...others]: readonly Variant[],
  { loopback, ...shared }: Pick<BenchOptions, 'tools' | 'seconds' | 'say'> & { loopback: boolean },
): Promise<Opened> {
  if (ours === undefined) throw new Error('nothing to measure')
  const stack = new AsyncDisposableStack()
  try {
    const { testbed, why } = await Testbed.open({ loopback })
    stack.use(testbed)
    const variants = new Map<string, Bench>()
    for (const hedgerow of others) {
      const opened = await Testbed.open({ loopback })
      stack.use(opened.testbed)
      variants.set(hedgerow.name, new Bench({ ...shared, testbed: opened.testbed, hedgerow }))
    }
    const bench = new Bench({ ...shared, testbed, hedgerow: ours, variants })
    return { bench, why, [Symbol.asyncDispose]: () => stack.disposeAsync() }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}
