import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { agentCalls } from './agent-program.ts'
import type { Answered, Asked, Calls } from './child.ts'
import { clusterCalls } from './cluster-program.ts'
import { crowdCalls } from './crowd-program.ts'
import { rootCalls } from './root-program.ts'

/** A process of the benchmark: `program.ts ROLE`, asked by the process that has forked it, and ended with it. */
const ROLES: Readonly<Record<string, (life: Lifetime) => Calls>> = {
  root: rootCalls,
  cluster: clusterCalls,
  crowd: crowdCalls,
  agent: agentCalls,
}

const role = ROLES[process.argv[2] ?? '']
if (role === undefined) throw new Error(`there is no role ${process.argv[2]}`)
const life = new Lifetime()
const calls = role(life)

process.on('message', (message) => {
  const { id, name, args } = message as Asked
  const reply = (answer: Omit<Answered, 'id'>) => process.connected && process.send?.({ id, ...answer })
  Promise.try(calls[name] as (...args: unknown[]) => unknown, ...args).then(
    (value) => reply({ value }),
    (error: unknown) => reply({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  )
})
process.once('disconnect', () => {
  void life.close().finally(() => process.exit(0))
})
