import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { instanceNamed, instanceStill, serviceNamed } from './names.ts'
import { isData, printData } from './output.ts'
import { progress, say, note } from './terminal.ts'

const POLL_MS = 100

/** Restarts one instance, or those of a service one after the other: the next when the one before runs. */
export async function restartRuns(given: string, limitMs: number, context: Context): Promise<void> {
  const root = rootClient(context)
  if (!isInstance(given) && (await hasRunAsJob(root, given, context))) return
  const instances = await instancesOf(root, given)
  const endAt = performance.now() + limitMs
  for (const [at, instance] of instances.entries()) {
    progress(`${at} of ${instances.length} are restarted …`)
    const { epoch, gap } = await root.ask('POST', '/v1/instances/{name}/restart', { path: { name: instance } })
    if (gap !== undefined) note(`${instance} is stopped first: ${gap}`)
    await restarted(root, { instance, epoch, endAt })
    if (!isData(context)) say(`${instance} is restarted`)
  }
  if (isData(context)) await printData({ restarted: instances }, context)
}

function isInstance(given: string): boolean {
  return /\.\d{1,6}$/.test(given)
}

/** A job is run again, all of its instances at once; nobody waits for its end. */
async function hasRunAsJob(root: RootClient, given: string, context: Context): Promise<boolean> {
  const path = { name: await serviceNamed(root, given) }
  const { id, oneShot } = await root.ask('GET', '/v1/services/{name}', { path })
  if (oneShot !== true) return false
  const begun = await root.ask('POST', '/v1/services/{name}/run', { path })
  if (isData(context)) await printData(begun, context)
  else say(`${id} runs again; \`hedgerow get runs ${id}\` shows how it goes`)
  return true
}

async function instancesOf(root: RootClient, given: string): Promise<string[]> {
  if (isInstance(given)) return [await instanceNamed(root, given)]
  const service = await serviceNamed(root, given)
  const rows = await root.all('/v1/instances', { query: { service } })
  return rows.map(({ id }) => id)
}

interface Waited {
  instance: string
  /** Of the run that is waited for. */
  epoch: number
  endAt: number
}

/** @throws MeshError REQUEST_TIMEOUT, UNPLACEABLE when the one before goes on */
async function restarted(root: RootClient, { instance, epoch, endAt }: Waited): Promise<void> {
  let last: string | undefined
  for (; performance.now() < endAt; await sleep(POLL_MS)) {
    const row = await instanceStill(root, instance)
    const { successor, state, detail, outcome } = row
    const isNew = (row.epoch ?? 0) >= epoch
    const isOver = outcome === 'succeeded' || outcome === 'failed'
    if (isNew && successor === undefined && (state === 'running' || isOver)) return
    if (successor !== undefined || isNew)
      last = successor?.detail ?? detail ?? `the new run is ${successor?.state ?? state}`
    else if (last !== undefined)
      throw new MeshError('UNPLACEABLE', {
        instance,
        reason: `the run before goes on, as the new one failed (${last})`,
      })
  }
  throw new MeshError('REQUEST_TIMEOUT', { name: instance, reason: last ?? 'the new run has not started' })
}
