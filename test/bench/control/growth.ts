import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Curve, svgOf, textOf } from '../plot.ts'
import { place, removeAll } from './measures.ts'
import { type Cpu, Plane } from './plane.ts'

export interface Growth {
  /** How many services, by rising number. */
  services: readonly number[]
  nodes: number
}

export const GROWTH: Growth = { services: [100, 200, 500, 1_000, 2_000], nodes: 20 }

const SECONDS = 'seconds, applied → all running'

/** Of an app; larger apps are refused. */
const MOST_OF_AN_APP = 100

interface Point {
  services: number
  figures: Readonly<Record<string, number>>
}

/** How the cost of placing grows with the number of services: a curve for each figure, as text and as one SVG file each in `out`. */
export async function growth(
  { services, nodes }: Growth,
  { out, say, print }: { out: string; say: (line: string) => void; print: (line: string) => void },
): Promise<void> {
  mkdirSync(out, { recursive: true })
  const points: Point[] = []
  for (const count of services) {
    try {
      const point = await pointOf(count, nodes)
      points.push(point)
      say(`${point.services} services run after ${point.figures[SECONDS]?.toFixed(1)} s`)
    } catch (error) {
      say(`${count} services: failed: ${(error as Error).message}`)
    }
  }
  for (const curve of curvesOf(points, nodes)) {
    const file = join(out, `control ${curve.y}.svg`.replace(/[^\w.]+/g, '-'))
    writeFileSync(file, svgOf(curve))
    for (const line of [...textOf(curve), `         ${file}`, '']) print(line)
  }
}

/** In a mesh of its own: what an earlier one left in memory is no growth. */
async function pointOf(count: number, nodes: number): Promise<Point> {
  await using plane = await Plane.start({ clusters: 1 })
  await plane.join(nodes)
  const apps = Math.ceil(count / MOST_OF_AN_APP)
  const wanted = { apps, services: Math.ceil(count / apps) }
  const placed = await place(plane, wanted)
  const gone = await removeAll(plane, wanted)
  const services = wanted.apps * wanted.services
  const msEach = ({ root, clusters }: Cpu) => ((root + clusters) * 1_000) / services
  return {
    services,
    figures: {
      [SECONDS]: placed.seconds,
      'CPU of root and cluster for a service that is placed, ms': msEach(placed.cpu),
      'CPU of root and cluster for a service that is deleted, ms': msEach(gone.cpu),
    },
  }
}

function curvesOf(points: readonly Point[], nodes: number): Curve[] {
  return Object.keys(points[0]?.figures ?? {}).map((y) => ({
    title: `hedgerow, one cluster of ${nodes} nodes`,
    x: 'services',
    y,
    points: points.map(({ services, figures }) => [services, figures[y] ?? 0] as const),
  }))
}
