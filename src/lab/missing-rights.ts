import { lackingEngine } from './docker/engine.ts'
import { lacking } from './namespace.ts'
import type { Backend } from './spec.ts'

/** Why no lab can be built here, in words for a skip; `undefined` when one can. */
export async function lackingFor(backend: Backend = 'namespaces'): Promise<string | undefined> {
  return (await lacking()) ?? (backend === 'docker' ? await lackingEngine() : undefined)
}
