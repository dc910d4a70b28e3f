import { explain } from '../../../core/errors.ts'
import type { Log } from '../../../core/kit/log.ts'
import { isStatus, type Engine } from './engine.ts'

/*
 * The images that this agent has pulled, and when one was last used:
 *
 *     pulled ─▶ remembered ─▶ no container of any kind for `keepMs` ─▶ its name is removed, and with the last name the image
 *
 * What was there before, or what somebody else has pulled or built, is never remembered, and hence never removed.
 */

export interface PulledImage {
  /** Of the image itself: a name may come to mean another. */
  id: string
  reference: string
  usedAt: number
}

/** Where they are remembered. */
export interface ImageRecord {
  readJson(): unknown
  put(text: string): Promise<void>
}

export interface PulledImagesOptions {
  record: ImageRecord
  /** 0: for ever. */
  keepMs: number
  log: Log
}

export class PulledImages {
  readonly #options: PulledImagesOptions
  readonly #images: Map<string, PulledImage>

  constructor(options: PulledImagesOptions) {
    this.#options = options
    this.#images = new Map(imagesIn(options.record.readJson()).map((image) => [image.id, image]))
  }

  /** A container of it is about to be made. `isNew`: it was pulled for that. */
  used({ id, reference, isNew }: Pick<PulledImage, 'id' | 'reference'> & { isNew: boolean }, now: number): void {
    const known = this.#images.get(id)
    if (known === undefined && !isNew) return
    this.#images.set(id, { id, reference: known?.reference ?? reference, usedAt: now })
    this.#write()
  }

  /** Removes what is due. @throws what the engine says */
  async sweep(engine: Engine, now: number): Promise<void> {
    const { keepMs, log } = this.#options
    if (keepMs === 0 || this.#images.size === 0) return
    const containers = (await engine.ask({ method: 'GET', path: '/containers/json', query: { all: 1 } })) as {
      ImageID?: string
    }[]
    const inUse = new Set(containers.map(({ ImageID }) => ImageID))
    for (const image of this.#images.values()) if (inUse.has(image.id)) image.usedAt = now
    for (const image of dueImages(this.#images.values(), { now, keepMs })) {
      try {
        await remove(engine, image)
        this.#images.delete(image.id)
        log.info('image removed', { image: image.reference })
      } catch (error) {
        if (!isStatus(error, 409)) throw error
        image.usedAt = now // somebody else has use for it
        log.debug('an image is kept', { image: image.reference, reason: explain(error) })
      }
    }
    this.#write()
  }

  #write(): void {
    void this.#options.record.put(JSON.stringify([...this.#images.values()]))
  }
}

/** Not used for so long. */
export function dueImages(
  images: Iterable<PulledImage>,
  { now, keepMs }: { now: number; keepMs: number },
): PulledImage[] {
  return Array.from(images).filter(({ usedAt }) => now - usedAt > keepMs)
}

/** By its name, as long as that means this image: another name that somebody gave it keeps it. */
async function remove(engine: Engine, { id, reference }: PulledImage): Promise<void> {
  const name = (await idOf(engine, reference)) === id ? reference : id
  await engine.ask({ method: 'DELETE', path: `/images/${name}` }).catch((error: unknown) => {
    if (!isStatus(error, 404)) throw error
  })
}

async function idOf(engine: Engine, reference: string): Promise<string | undefined> {
  try {
    return ((await engine.ask({ method: 'GET', path: `/images/${reference}/json` })) as { Id?: string }).Id
  } catch (error) {
    if (isStatus(error, 404)) return undefined
    throw error
  }
}

function imagesIn(value: unknown): PulledImage[] {
  if (!Array.isArray(value)) return []
  return (value as Partial<PulledImage>[]).flatMap(({ id, reference, usedAt }) =>
    typeof id === 'string' && typeof reference === 'string' && typeof usedAt === 'number'
      ? [{ id, reference, usedAt }]
      : [],
  )
}
