/** May this client publish this? */
export const onPublish = {
  onPublish(publication) {
    if (text(publication.data).includes('\uFFFD')) {
      return { tag: 'refuse', val: { reason: 'only text may be published here' } };
    }
    return { tag: 'accept' };
  },
};
