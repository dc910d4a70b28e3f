import { Session } from 'node:inspector'

/** Kept connected: to disconnect within an answer stops the process. */
let session: Session | undefined

/**
 * Has V8 collect all garbage and give back what it holds unused, as it does when memory is low. By itself it collects old objects when its
 * own limit is near, of which a control group knows nothing. The process stands still meanwhile: 0.1 s for 50 MB on a PC.
 */
export async function collectGarbage(): Promise<void> {
  if (session === undefined) {
    session = new Session()
    session.connect()
  }
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  session.post('HeapProfiler.collectGarbage', (error) => (error === null ? resolve() : reject(error)))
  await promise
}
