/** Those that carried most, when there are more than `most`. */
export function busiest<L extends { bytesIn: number; bytesOut: number }>(links: readonly L[], most: number): L[] {
  if (links.length <= most) return [...links]
  return links.toSorted((a, b) => b.bytesIn + b.bytesOut - a.bytesIn - a.bytesOut).slice(0, most)
}
